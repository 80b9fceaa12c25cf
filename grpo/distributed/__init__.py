"""The processes that train together: ``process_group`` says which one this is and exchanges objects and sums.

Rollouts are independent on each rank; what the ranks share is the step's completions, the gradients and the statistics,
and, where ``fsdp`` divides the model, its weights.
"""
