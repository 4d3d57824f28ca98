"""Numbers and callables that a function can use: one line says what to give instead of others."""

import inspect
import math
import textwrap
from numbers import Integral, Real

LARGEST_SIGMA = 10
"""No noise in pixel units of [0, 1] is larger; one in units of 0..255 nearly always is."""


def shown(value: object) -> str:
    """Write a value within one line, the end of a long one left out.

    Parameters
    ----------
    value : object
        What a message is about.

    Returns
    -------
    str
        Its ``repr`` as far as it fits.

    Examples
    --------
    >>> shown([[1, 2]])
    '[[1, 2]]'
    """
    return textwrap.shorten(repr(value), 80, placeholder=" ...")


def first_line(error: Exception) -> str:
    """Say an error's reason in one line; its kind where it gives none.

    Parameters
    ----------
    error : Exception
        What was raised.

    Returns
    -------
    str
        The first line of its message.

    Examples
    --------
    >>> first_line(NotImplementedError())
    'NotImplementedError'
    """
    return next(iter(str(error).splitlines()), type(error).__name__)


def check_callable(name: str, value: object, example: str, remedy: str) -> None:
    """Refuse what cannot be called with network, images, labels and generator.

    Parameters
    ----------
    name : str
        What the caller calls it.
    value : object
        The thing to check: an attack, an objective.
    example : str
        What to give instead of what is no callable.
    remedy : str
        What to do about a callable of other arguments.

    Raises
    ------
    TypeError
        If it is no callable, or one of other arguments.
    """
    if not callable(value):
        kind = type(value).__name__
        raise TypeError(f"{name}={shown(value)} is {kind}, not a callable: give {example}")
    try:
        inspect.signature(value).bind(None, None, None, None)
    except TypeError:
        raise TypeError(
            f"{name} cannot be called with (model, x, y, generator): {remedy}"
        ) from None
    except ValueError:
        return  # written in C: it does not say what it takes


def check_whole(name: str, value: object, least: int = 1) -> None:
    """Refuse what is no whole number, and what is too small.

    Parameters
    ----------
    name : str
        What the caller calls it.
    value : object
        The number; True and False are none.
    least : int, default=1
        The smallest that makes sense.

    Raises
    ------
    TypeError
        If it is no whole number; 2.0 is none either.
    ValueError
        If it is below `least`.

    Examples
    --------
    >>> check_whole("restarts", 1.5)
    Traceback (most recent call last):
    TypeError: restarts=1.5 is float: give a whole number >= 1
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        kind = type(value).__name__
        raise TypeError(f"{name}={shown(value)} is {kind}: give a whole number >= {least}")
    if value < least:
        raise ValueError(f"{name}={value} must be a whole number >= {least}")


def check_number(name: str, value: object, example: str) -> None:
    """Refuse what is no real number: text, a tensor, True.

    Parameters
    ----------
    name : str
        What the caller calls it.
    value : object
        The number.
    example : str
        What to write instead.

    Raises
    ------
    TypeError
        If it is no number.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        kind = type(value).__name__
        raise TypeError(f"{name}={shown(value)} is {kind}, not a number: write {example}")


def check_sigma(sigma: float) -> None:
    """Refuse a noise level that is not positive, not finite or in units of 0..255.

    Parameters
    ----------
    sigma : float
        Standard deviation in pixel units of [0, 1].

    Raises
    ------
    TypeError, ValueError
        If it is no number, or none that noise can have.

    Examples
    --------
    >>> check_sigma(64)
    Traceback (most recent call last):
    ValueError: sigma=64 looks like 0..255 units; write 64/255
    """
    check_number("sigma", sigma, "sigma=0.25")
    if not 0 < sigma < math.inf:
        raise ValueError(
            f"sigma={sigma} must be positive and finite, in pixel units of [0, 1]: 0.25, say"
        )
    if sigma > LARGEST_SIGMA:
        raise ValueError(f"sigma={sigma} looks like 0..255 units; write {sigma}/255")
