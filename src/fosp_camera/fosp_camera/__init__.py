"""Camera node: video device, video file or folder of images to image_raw and camera_info."""
