"""Maps of the stability suite, such as eigenvalues over a region or sensitivity over layers and training."""
