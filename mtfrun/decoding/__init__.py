"""Decoding with any model that is a step function with a state: greedy, sampled, beam search."""

from mtfrun.decoding.beam_search import BeamSearch as BeamSearch
from mtfrun.decoding.decoder import EMPTY_BELOW as EMPTY_BELOW
from mtfrun.decoding.decoder import END_ID as END_ID
from mtfrun.decoding.decoder import Beginning as Beginning
from mtfrun.decoding.decoder import Decoder as Decoder
from mtfrun.decoding.decoder import Hypotheses as Hypotheses
from mtfrun.decoding.decoder import StepFunction as StepFunction
from mtfrun.decoding.decoder import n_best as n_best
from mtfrun.decoding.draft import Draft as Draft
from mtfrun.decoding.draft import LookupDraft as LookupDraft
from mtfrun.decoding.draft import ModelDraft as ModelDraft
from mtfrun.decoding.generate import fit_state as fit_state
from mtfrun.decoding.generate import generate as generate
from mtfrun.decoding.prompt import count_prompt_ids as count_prompt_ids
from mtfrun.decoding.prompt import worth_reading_at_once as worth_reading_at_once
from mtfrun.decoding.sampling import ChooseToken as ChooseToken
from mtfrun.decoding.sampling import Greedy as Greedy
from mtfrun.decoding.sampling import Sample as Sample
from mtfrun.decoding.search import Search as Search
from mtfrun.decoding.shared_batch import Decoded as Decoded
from mtfrun.decoding.shared_batch import SharedBatch as SharedBatch
from mtfrun.decoding.speculative import Speculation as Speculation
from mtfrun.decoding.speculative import speculate as speculate
