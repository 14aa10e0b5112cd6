"""The gradient-free fit of a quantizer: `levels.fit_quantizer`, made of sampling, regression and k-means."""
