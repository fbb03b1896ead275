from mtfrun.errors import InputError


class ConversionError(InputError):
    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
