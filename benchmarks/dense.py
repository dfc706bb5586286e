"""What detection and segmentation have in common beside their backbones and their scenes."""

# In the place of a method: the weights of the baseline's patch embedding, and all else as it was.
PATCH_EMBEDDING = "patch_embedding"
FOLDER_SPLITS = ("train", "test")  # of a user's folder of images
