"""The trainer `yolo`; the only part of the project that imports torch and Ultralytics."""
