# mini's detector at a rate of 1e-3, under the shortest schedule that was compared.
_base_ = ["../mini/schedules/mask-rcnn-4.py"]

optim_wrapper = dict(optimizer=dict(lr=1e-3))
