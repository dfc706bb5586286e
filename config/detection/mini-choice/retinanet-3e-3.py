# mini's detector at a rate of 3e-3.
_base_ = ["../mini/retinanet.py"]

optim_wrapper = dict(optimizer=dict(lr=3e-3))
