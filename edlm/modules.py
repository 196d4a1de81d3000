"""What networks of torch share."""


class ShortRepr:
    """A module whose repr is its class and its size, not a tree of its parts."""

    def __repr__(self) -> str:
        size = sum(weight.numel() for weight in self.parameters())
        return f"{type(self).__name__}({f'{size:,} parameters' if size else ''})"
