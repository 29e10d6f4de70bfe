"""The reader study: people rate real and synthetic images without knowing which is which (docs/study.md).

    making.py   a blinded, balanced set of images, and the key to it
    serving.py  a web page on which readers rate them; knows no key
    scoring.py  what they said, with intervals

The three meet through a study's folder alone (folder.py).
"""
