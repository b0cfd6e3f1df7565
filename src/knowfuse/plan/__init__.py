"""What will a run need, before anyone pays for it? Memory, disk and hours, without loading a weight.

python -m knowfuse.plan experiment=fusellm_7b trainer=fsdp trainer.devices=8
"""
