"""The parts of tools/data/import_videos.py."""
