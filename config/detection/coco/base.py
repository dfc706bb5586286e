# COCO at real size: mmdet's 1x schedule (12 epochs, 8 GPUs of 2 images) with the optimizer of
# Swin's detectors (mmdet's mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py), for every student alike.
_base_ = [
    "mmdet::_base_/datasets/coco_instance.py",
    "mmdet::_base_/schedules/schedule_1x.py",
    "mmdet::_base_/default_runtime.py",
]

# Measured once, after the last epoch.
val_cfg = None
val_dataloader = None
val_evaluator = None

# New workers, of the same seeds, every epoch: a training that is resumed draws as one that was not.
train_dataloader = dict(persistent_workers=False)

optim_wrapper = dict(
    optimizer=dict(_delete_=True, type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,  # of the pyramids too, where names do not say "norm"
        custom_keys=dict(
            pos_embed=dict(decay_mult=0.0),
            cls_token=dict(decay_mult=0.0),
            dist_token=dict(decay_mult=0.0),
            relative_position_bias_table=dict(decay_mult=0.0),
        ),
    ),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type="MultiStepLR", begin=0, end=12, by_epoch=True, milestones=[8, 11], gamma=0.1),
]
# two: mmengine removes the oldest before it writes the next, and may be killed between
default_hooks = dict(checkpoint=dict(interval=1, max_keep_ckpts=2))
log_level = "WARNING"
