"""What does each alignment keep of what the sources said? Figures, and one text in colours.

python -m knowfuse.align_report
"""
