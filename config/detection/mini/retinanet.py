# RetinaNet (Lin et al. 2017) at the size of mini: mmdet's, with 64 channels and two convolutions.
_base_ = ["mmdet::_base_/models/retinanet_r50_fpn.py", "base.py"]

width = 64
necks = dict(
    plain=dict(type="SimpleFeaturePyramid", out_channels=width, scales=[2, 1, 0.5], num_outs=3),
    hierarchical=dict(type="NormalisedFPN", out_channels=width, num_outs=4),
)
model = dict(
    backbone=dict(_delete_=True, type="Student", blocks=4),  # all
    bbox_head=dict(
        in_channels=width,
        feat_channels=width,
        stacked_convs=2,
        anchor_generator=dict(octave_base_scale=4),
    ),
    test_cfg=dict(nms_pre=300, max_per_img=50),
)
train_cfg = dict(max_epochs=20)  # as long as the other's, in time
