# mini's detector at a rate of 6e-3, under the shortest schedule that was compared.
_base_ = ["../mini/schedules/retinanet-5.py"]

optim_wrapper = dict(optimizer=dict(lr=6e-3))
