"""Patches: the pieces of an image that become its tokens."""

from numbers import Integral

from scratch_vlm.backend import namespace


def patchify_forward(images, *, patch):
    """Cut each image into rectangles and lay each out as a row of numbers.

    Parameters
    ----------
    images : array of shape (B, H, W, C)
        Images.
    patch : tuple of int
        Height and width of a patch in pixels; they must divide H and W.

    Returns
    -------
    patches : array of shape (B, N, P)
        N patches in reading order, each of P = height x width x C numbers in the order (row,
        column, channel).
    saved : tuple
        For `patchify_backward`.

    Raises
    ------
    TypeError
        If the images are not an array.
    ValueError
        If the images are not of four axes or do not divide into patches.

    See Also
    --------
    patchify_backward : The gradient of this function.

    Notes
    -----
    A linear layer on patches is a convolution whose stride is its kernel size: equation 1 of
    [1]_ and the strided convolution of released code are one thing.

    References
    ----------
    .. [1] A. Dosovitskiy et al., "An Image is Worth 16x16 Words", 2020, arXiv:2010.11929,
       section 3.1.
    """
    namespace(images)  # refuses a list
    rows, columns = patch_grid(images.shape[1:], patch)
    b, _, _, c = images.shape
    h, w = patch
    x = images.reshape(b, rows, h, columns, w, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, rows * columns, h * w * c), (images.shape, patch)


def patchify_backward(dpatches, saved):
    """Gradient of `patchify_forward`, and its inverse: put the patches back where they were.

    Parameters
    ----------
    dpatches : array of shape (B, N, P)
        dL/dpatches.
    saved : tuple
        As `patchify_forward` saved it.

    Returns
    -------
    dimages : array of shape (B, H, W, C)

    Notes
    -----
    The forward moved every number to exactly one place; the gradient moves it back.
    """
    shape, patch = saved
    return unpatchify_forward(dpatches, size=shape[1:3], patch=patch)[0]


def unpatchify_forward(patches, *, size, patch):
    """Put patches back together into images.

    Parameters
    ----------
    patches : array of shape (B, N, P)
        Patches in reading order, as `patchify_forward` returns them.
    size : tuple of int
        Height and width of the images in pixels.
    patch : tuple of int
        Height and width of a patch in pixels.

    Returns
    -------
    images : array of shape (B, H, W, C)
    saved : tuple of int
        The patch, for `unpatchify_backward`.

    Raises
    ------
    TypeError
        If the patches are not an array.
    ValueError
        If the patches do not fill images of that size.

    See Also
    --------
    unpatchify_backward : The gradient of this function.
    """
    namespace(patches)  # refuses a list
    if patches.ndim != 3:
        raise ValueError(f"patches must be (B, N, P), got {patches.shape}")
    check_pixels(size=size)
    rows, columns = patch_grid((*size, 1), patch)
    b, n, numbers = patches.shape
    h, w = patch
    if n != rows * columns or numbers % (h * w):
        raise ValueError(
            f"patches {patches.shape} do not fill images of {size[0]} x {size[1]} px: "
            f"{rows * columns} patches of {h} x {w} px are needed, of {h * w} numbers a channel"
        )
    x = patches.reshape(b, rows, columns, h, w, numbers // (h * w)).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, *size, numbers // (h * w)), patch


def unpatchify_backward(dimages, patch):
    """Gradient of `unpatchify_forward`: cut it as the images were put together.

    Parameters
    ----------
    dimages : array of shape (B, H, W, C)
        dL/dimages.
    patch : tuple of int
        As `unpatchify_forward` saved it.

    Returns
    -------
    dpatches : array of shape (B, N, P)
    """
    return patchify_forward(dimages, patch=patch)[0]


def patch_grid(image, patch):
    """Count the patches of an image.

    Parameters
    ----------
    image : tuple of int
        Height, width and channels.
    patch : tuple of int
        Height and width of a patch in pixels.

    Returns
    -------
    rows, columns : int

    Raises
    ------
    ValueError
        If the patch is not two positive lengths, or does not divide the image; the message
        names sizes that would fit.
    """
    if len(image) != 3:
        raise ValueError(
            f"images must be (B, H, W, C); got {len(image) + 1} axes"
            + ("; add a channel axis with images[..., None]" if len(image) == 2 else "")
        )
    check_pixels(patch=patch)
    for side, length, piece in zip(("height", "width"), image, patch, strict=False):
        if length % piece or length < piece:
            below = max(length // piece, 1) * piece
            raise ValueError(
                f"image {side} {length} px is not a multiple of the patch {side} {piece} px; "
                f"{below} or {below + piece} px would be"
            )
    return image[0] // patch[0], image[1] // patch[1]


def check_pixels(**sizes):
    """Refuse what is no height and width of an image or a patch.

    Parameters
    ----------
    **sizes : tuple of int
        Heights and widths, by the names that an error should use.

    Raises
    ------
    ValueError
        If one is not two positive whole numbers.

    Examples
    --------
    >>> check_pixels(size=8)
    Traceback (most recent call last):
        ...
    ValueError: size must be (height, width) in pixels, two positive whole numbers; got 8
    """
    for name, size in sizes.items():
        pair = isinstance(size, tuple | list) and len(size) == 2
        if not pair or not all(isinstance(n, Integral) and n > 0 for n in size):
            raise ValueError(
                f"{name} must be (height, width) in pixels, two positive whole numbers; got {size}"
            )
