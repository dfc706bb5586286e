_base_ = ["../retinanet.py"]
train_cfg = dict(max_epochs=5)
