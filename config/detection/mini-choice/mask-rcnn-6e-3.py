# mini's detector at a rate of 6e-3.
_base_ = ["../mini/mask-rcnn.py"]

optim_wrapper = dict(optimizer=dict(lr=6e-3))
