"""The graph of a run as a picture: folded, laid out, drawn and written as SVG, all in plain Python.

``plan`` decides from the structure alone where everything stands, and may be cached; ``draw`` paints states over it;
``to_svg`` writes the markup.
"""
