"""Networks, backbone and head, pretrained weights and the classifier."""
