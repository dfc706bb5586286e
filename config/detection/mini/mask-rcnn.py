# Mask R-CNN (He et al. 2017) at the size of mini: mmdet's, with 64 channels and fewer samples.
_base_ = ["mmdet::_base_/models/mask-rcnn_r50_fpn.py", "base.py"]

width = 64
necks = dict(
    plain=dict(type="SimpleFeaturePyramid", out_channels=width, scales=[2, 1, 0.5], num_outs=3),
    hierarchical=dict(type="NormalisedFPN", out_channels=width, num_outs=4),
)
model = dict(
    backbone=dict(_delete_=True, type="Student", blocks=4),  # all
    rpn_head=dict(in_channels=width, feat_channels=width, anchor_generator=dict(scales=[6])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=width),
        bbox_head=dict(in_channels=width, fc_out_channels=128),
        mask_roi_extractor=dict(out_channels=width),
        mask_head=dict(num_convs=2, in_channels=width, conv_out_channels=width),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=300, max_per_img=100),
        rcnn=dict(sampler=dict(num=64)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=300, max_per_img=100), rcnn=dict(max_per_img=50)),
)
