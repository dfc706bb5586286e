# RetinaNet, 1x, on levels 3 to 7.
_base_ = ["mmdet::_base_/models/retinanet_r50_fpn.py", "base.py"]

necks = dict(
    plain=dict(type="SimpleFeaturePyramid", out_channels=256, scales=[2, 1, 0.5], num_outs=5),
    hierarchical=dict(
        type="NormalisedFPN",
        out_channels=256,
        start_level=1,
        add_extra_convs="on_input",
        num_outs=5,
    ),
)
model = dict(backbone=dict(_delete_=True, type="Student", drop_path=0.1))
