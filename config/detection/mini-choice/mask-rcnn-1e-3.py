# mini's detector at a rate of 1e-3.
_base_ = ["../mini/mask-rcnn.py"]

optim_wrapper = dict(optimizer=dict(lr=1e-3))
