# Mask R-CNN, 1x: Swin through FPN, a plain ViT through the simple feature pyramid of ViTDet.
_base_ = ["mmdet::_base_/models/mask-rcnn_r50_fpn.py", "base.py"]

necks = dict(
    plain=dict(type="SimpleFeaturePyramid", out_channels=256, scales=[4, 2, 1, 0.5], num_outs=5),
    hierarchical=dict(type="NormalisedFPN", out_channels=256, num_outs=5),
)
model = dict(backbone=dict(_delete_=True, type="Student", drop_path=0.1))
