_base_ = ["../mask-rcnn.py"]
train_cfg = dict(max_epochs=32)
