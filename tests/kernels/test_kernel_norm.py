import numpy as np
from scratch_vlm.kernels import norm as kernels
from scratch_vlm.layers import norm as twins

def test_layer_norm(emulated):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 5, 70)).astype("f")
    p = {"gamma": rng.standard_normal(70).astype("f"), "beta": rng.standard_normal(70).astype("f")}
    y, s = kernels.layer_norm_forward(x, p)
    y2, s2 = twins.layer_norm_forward(x, p)
    np.testing.assert_allclose(y, y2, rtol=1e-4, atol=1e-5)
    dy = rng.standard_normal(x.shape).astype("f")
    g = {k: np.zeros_like(v) for k, v in p.items()}
    g2 = {k: np.zeros_like(v) for k, v in p.items()}
    dx = twins.layer_norm_backward(dy, s, g)
    dx2 = twins.layer_norm_backward(dy, s2, g2)
    np.testing.assert_allclose(dx, dx2, rtol=1e-4, atol=1e-5)
    for k in g: np.testing.assert_allclose(g[k], g2[k], rtol=1e-4, atol=1e-4)
