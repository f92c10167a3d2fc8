"""Options that several verbs share, so that they read alike everywhere."""

from typing import Annotated

import typer

MaxPixels = Annotated[int, typer.Option(min=1, help="Refuse images and masks of more pixels.")]
MaxOffPalette = Annotated[
    float, typer.Option(help="Share of pixels with a colour of no class above which a mask is skipped.")
]
