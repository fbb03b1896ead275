"""Tensors that T5 and its descendants have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from mtfrun.tools.conversion.hugging_face.tensor_table import Matrix, Row, Same, VocabularyRows, row

# Returns the rows of a feed-forward sublayer: of the encoder or decoder, the block, the name of the
# sublayer's tensors, "encoder.block.0.layer.1".
FeedForwardRows = Callable[[str, int, str], Iterator[Row]]

# Returns the path of a sublayer of ours: of the encoder or decoder, the block, and the sublayer.
Place = Callable[[str, int, str], str]

# Checkpoints of T5 1.0 have it, and nothing uses it.
UNUSED = r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight"

# The tables that are one in all models.
EMBEDDING = "shared.weight"
EMBEDDING_COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
SOFTMAX = "lm_head.weight"


def in_order(stack: str, block: int, sublayer: str) -> str:
    """Returns the path of a sublayer where every block is one of theirs."""
    return f"{stack}_stack/blocks/{block}/{sublayer}"


def all_rows(
    vocabulary_size: int,
    blocks: tuple[int, int],
    feed_forward: FeedForwardRows,
    *,
    place: Place = in_order,
    is_tied: bool,
) -> list[Row]:
    """Returns the rows of a whole model, in the order in which transformers has its modules.

    Args:
      vocabulary_size: the rows of the tables.
      blocks: the numbers of those of the encoder and of the decoder.
      feed_forward: see `FeedForwardRows`.
      place: see `Place`.
      is_tied: there is no softmax of its own.
    """
    rows = [row(EMBEDDING, "embedding/table", VocabularyRows(vocabulary_size))]
    for stack, number in zip(("encoder", "decoder"), blocks, strict=True):
        for block in range(number):
            rows += _block(stack, block, feed_forward, place)
        norm = f"{stack}_stack/final_norm/scale"
        rows.append(row(f"{stack}.final_layer_norm.weight", norm, Same()))
    if not is_tied:
        kernel = VocabularyRows(vocabulary_size, transposed=True)
        rows.append(row(SOFTMAX, "softmax/kernel", kernel))
    return rows


def kernels(theirs: str, ours: str, names: Sequence[str]) -> Iterator[Row]:
    """Yields the rows of the linear maps of a feed-forward layer."""
    for name in names:
        yield row(f"{theirs}.{name}.weight", f"{ours}/{name}/kernel", Matrix())


def _block(stack: str, block: int, feed_forward: FeedForwardRows, place: Place) -> Iterator[Row]:
    theirs = f"{stack}.block.{block}.layer"
    yield from _attention(f"{theirs}.0.SelfAttention", place(stack, block, "self_attention"))
    if block == 0:
        table = "SelfAttention.relative_attention_bias.weight"
        yield row(f"{theirs}.0.{table}", f"{stack}_stack/relative_bias/table", Matrix())
    yield norm(f"{theirs}.0", place(stack, block, "self_attention"))
    if stack == "decoder":
        ours = place(stack, block, "encoder_decoder_attention")
        yield from _attention(f"{theirs}.1.EncDecAttention", ours)
        yield norm(f"{theirs}.1", ours)
    yield from feed_forward(stack, block, f"{theirs}.{1 if stack == 'encoder' else 2}")


def _attention(theirs: str, ours: str) -> Iterator[Row]:
    """Yields the four projections of a layer."""
    for letter, name in (("q", "query"), ("k", "key"), ("v", "value")):
        yield row(f"{theirs}.{letter}.weight", f"{ours}/layer/attention/{name}", Matrix())
    yield row(f"{theirs}.o.weight", f"{ours}/layer/attention/output", Matrix(inputs=2))


def norm(theirs: str, ours: str) -> Row:
    """Returns the row of the normalisation before a sublayer."""
    return row(f"{theirs}.layer_norm.weight", f"{ours}/norm/scale", Same())
