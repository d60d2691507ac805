"""Speed and accuracy of fastce beside its peers and beside the memory limit."""
