"""Speed and size: counted on fake tensors for the paper's sizes, measured where there is a machine."""
