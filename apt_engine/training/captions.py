"""What each photo is called: its caption as prompt states, and which tokens of the two passes belong together."""

from collections.abc import Sequence
from difflib import SequenceMatcher

import torch
from torch import Tensor

from apt_engine.bases.base import BaseModel, PromptStates
from apt_engine.settings.training import SUBJECT_SLOT, TrainingConfig
from apt_engine.training.watch import TokenPairs


class Captions:
    """The captions of a run's photos, encoded once.

    Args:
        base: the model.
        config: how the subject is called, and what the untrained model is told.
        templates: the caption of each photo, with `{subject}` where it belongs; photos beyond the last have the config's.

    Attributes:
        cut: what is told that is longer than the model can read.
    """

    def __init__(self, base: BaseModel, config: TrainingConfig, templates: Sequence[str] = ()) -> None:
        known = list(dict.fromkeys((config.caption, *templates)))
        self._numbers = [known.index(template) for template in templates]
        phrases = [config.fill(template) for template in known]
        classes = [class_caption(config, template) for template in known]
        told = classes if config.reference_caption == "class" else phrases
        self.cut = [phrase for phrase in dict.fromkeys((*phrases, *told)) if base.caption_tokens(phrase).is_cut]
        self._states = [base.encode_prompts([phrase]) for phrase in phrases]
        self._reference_states = [base.encode_prompts([phrase]) for phrase in told]
        self._pairs = [token_pairs(base, *both) for both in zip(phrases, told, strict=True)]

    def states(self, photos: Sequence[int]) -> PromptStates:
        """What the tuned model is told of each photo, (B, L, D)."""
        return _gather(self._states, self._of(photos))

    def reference_states(self, photos: Sequence[int]) -> PromptStates:
        """What the untrained model is told of each photo, (B, L, D)."""
        return _gather(self._reference_states, self._of(photos))

    def tokens(self, photos: Sequence[int]) -> TokenPairs:
        """The pairs of tokens of each photo; shorter captions are filled up with columns that do not count."""
        pairs = [self._pairs[number] for number in self._of(photos)]
        if all(pair is pairs[0] for pair in pairs):
            return pairs[0]
        longest = max(len(pair.tuned) for pair in pairs)
        kept = torch.stack([torch.arange(longest, device=pair.tuned.device) < len(pair.tuned) for pair in pairs])
        return TokenPairs(
            tuned=torch.stack([_fill(pair.tuned, longest) for pair in pairs]),
            reference=torch.stack([_fill(pair.reference, longest) for pair in pairs]),
            kept=kept.float(),
        )

    def _of(self, photos: Sequence[int]) -> list[int]:
        return [self._numbers[photo] if photo < len(self._numbers) else 0 for photo in photos]


def class_caption(config: TrainingConfig, template: str) -> str:
    """A caption with the class word alone, no identifier: what the base model calls such a thing."""
    return template.replace(SUBJECT_SLOT, config.subject)


def token_pairs(base: BaseModel, caption: str, reference_caption: str) -> TokenPairs:
    """Which tokens of two captions belong together; what one has more, the identifier wherever it stands, is left out."""
    tuned, reference = base.caption_tokens(caption), base.caption_tokens(reference_caption)
    blocks = SequenceMatcher(None, tuned.ids, reference.ids, autojunk=False).get_matching_blocks()
    pairs = [
        (tuned.columns[block.a + place], reference.columns[block.b + place])
        for block in blocks
        for place in range(block.size)
    ]
    columns = torch.tensor(pairs, device=base.device)  # (J, 2)
    return TokenPairs(tuned=columns[:, 0], reference=columns[:, 1])


def _gather(states: Sequence[PromptStates], numbers: Sequence[int]) -> PromptStates:
    if len(set(numbers)) == 1:
        return states[numbers[0]].expand(len(numbers))
    return PromptStates.joined(states[number] for number in numbers)


def _fill(indices: Tensor, length: int) -> Tensor:
    return torch.cat([indices, indices.new_zeros(length - len(indices))])
