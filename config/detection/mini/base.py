# What mini's detectors share: the schedule, the loops and the images. The rate has the
# highest mean of three on validation scenes, without a test (docs/mini.md). The epochs are half of
# the longest schedule that was compared, of which none was long enough by the rule
# (docs/detection.md): what two cores do in some hours. Sizes of a detector stand in its own file;
# classes, strides, channels, normalisation and paths come from the student and the data.
default_scope = "mmdet"

scale = (112, 112)  # the longest sides of an image; the ratio is kept

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="Resize", scale=scale, keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=scale, keep_ratio=True),
    dict(
        type="PackDetInputs",
        meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
    ),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="CocoDataset", filter_cfg=dict(filter_empty_gt=True), pipeline=train_pipeline
    ),
)
test_dataloader = dict(
    batch_size=20,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="CocoDataset", test_mode=True, pipeline=test_pipeline),
)
test_evaluator = dict(type="CocoMetric")

train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=16, val_interval=2)
test_cfg = dict(type="TestLoop")
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=3e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=1.0),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=20),
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=True, convert_to_iter_based=True),
]
default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=10),
    param_scheduler=dict(type="ParamSchedulerHook"),
    # two: mmengine removes the oldest before it writes the next, and may be killed between
    checkpoint=dict(type="CheckpointHook", interval=1, max_keep_ckpts=2),
    sampler_seed=dict(type="DistSamplerSeedHook"),
)
visualizer = dict(
    type="DetLocalVisualizer", vis_backends=[dict(type="LocalVisBackend")], name="visualizer"
)
log_processor = dict(type="LogProcessor", window_size=10, by_epoch=True)
log_level = "WARNING"
env_cfg = dict(cudnn_benchmark=False, dist_cfg=dict(backend="gloo"))
