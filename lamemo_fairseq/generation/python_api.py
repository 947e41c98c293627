"""Trained models in Python: ``LaMemoLanguageModel.from_pretrained``.

from lamemo_fairseq import LaMemoLanguageModel

lm = LaMemoLanguageModel.from_pretrained("runs/lamemo", data_name_or_path="runs/data-bin", bpe="text_characters")
print(lm.sample("The king", sampling=True, sampling_topp=0.9, max_len_b=500, seed=1))
for token in lm.generate_stream("The king", max_len_b=500):
    print(lm.decode(token.id), end="", flush=True)
"""

import os
from argparse import Namespace
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Union

import torch
from fairseq import hub_utils, search
from torch import Tensor

from ..core.errors import UsageError
from ..core.pretrained import WEIGHTS
from ..data.text_form import missing_encoder, text_form
from .prompts import PromptLines
from .sampling import Sampling, generator_for
from .search import PromptedGenerator, nothing_left
from .session import NEVER, Prompts
from .text import encode_text

CHECKPOINTS = ("model.pt", "checkpoint_best.pt", "checkpoint_last.pt", WEIGHTS)


class GeneratedToken(NamedTuple):
    """One token of :meth:`TextInterface.generate_stream`.

    ``id`` in the dictionary; ``symbol``, as the dictionary has it; ``score``, its log-probability in nats.
    """

    id: int
    symbol: str
    score: float


class TextInterface(hub_utils.GeneratorHubInterface):
    """What ``from_pretrained`` returns: fairseq's interface for running text.

    A line end in a text is the ``</s>`` of the dictionary. Flags of generation are those of ``fairseq-generate``, by
    the names of its configuration (``sampling_topp``, ``max_len_b`` ...).
    """

    def __init__(self, cfg: Any, task: Any, models: Sequence[Any]) -> None:
        try:
            super().__init__(cfg, task, models)
        except ImportError as error:
            line = missing_encoder(error)
            if line is None:
                raise
            raise UsageError(line) from error
        self.eval()
        self.defaults: Dict[str, Any] = {str(name): cfg.generation[name] for name in cfg.generation}
        self.batch_size = cfg.dataset.batch_size or 1

    def encode(self, sentence: str) -> Tensor:
        """Text -> ids [n] int64. Raises ``UsageError`` where it is empty or has unknown symbols."""
        return encode_text(sentence, self.symbols, self.src_dict, "the text")

    def symbols(self, line: str) -> str:
        """A line as the dictionary's symbols, with spaces between them."""
        return str(self.apply_bpe(self.tokenize(line)))

    def decode(self, tokens: Union[Tensor, Sequence[int], int]) -> str:
        """Ids [n], or one id -> text."""
        lines: List[List[int]] = [[]]
        for token in torch.as_tensor(tokens).view(-1).tolist():
            if token == self.tgt_dict.eos():
                lines.append([])
            else:
                lines[-1].append(token)
        return "\n".join(super(TextInterface, self).decode(torch.tensor(line)) for line in lines)

    def sample(self, sentences: Any, beam: int = 1, verbose: bool = False, **flags: Any) -> Any:
        """Continuations of one text or of several, each with its prompt; greedy unless flags say otherwise.

        Args:
            sentences: a text, or a list of them.
            beam: beams.
            verbose: log hypotheses and scores.
            flags: of generation; ``seed``, to sample the same again (default: drawn from torch's global random state);
                ``stop_at_eos``, to end at a line's end; ``write_unk``, to let ``<unk>`` be written.
        """
        return super().sample(sentences, beam=beam, verbose=verbose, **flags)

    def generate(self, tokenized_sentences: Any, beam: int = 1, verbose: bool = False, **flags: Any) -> Any:
        """Hypotheses of each text, best first: ``tokens`` [n], ``positional_scores`` [n] in nats, ``score``."""
        if torch.is_tensor(tokenized_sentences) and tokenized_sentences.dim() == 1:
            return self.generate([tokenized_sentences], beam, verbose, **flags)[0]
        generator = self.generator(beam=beam, **flags)
        lines = PromptLines(tokenized_sentences, self.src_dict.pad())
        if len(lines) < len(tokenized_sentences):
            raise UsageError("a prompt is empty, and there is nothing to continue: give at least one token")
        order = lines.ordered_indices()
        found: Dict[int, Any] = {}
        for first in range(0, len(order), self.batch_size):
            batch = lines.collater([lines[index] for index in order[first : first + self.batch_size]])
            batch = hub_utils.utils.apply_to_sample(lambda tensor: tensor.to(self.device), batch)
            texts = self.task.inference_step(generator, list(self.models), batch)
            found.update(zip(batch["id"].tolist(), texts))
        if verbose:
            for number in sorted(found):
                for one in found[number]:
                    hub_utils.logger.info("H-%d\t%.4f\t%s", number, float(one["score"]), self.decode(one["tokens"]))
        return [found[number] for number in range(len(found))]

    def generator(
        self,
        beam: int = 1,
        seed: Optional[int] = None,
        stop_at_eos: Optional[bool] = None,
        write_unk: Optional[bool] = None,
        **flags: Any,
    ) -> PromptedGenerator:
        """Fairseq's generator for flags of generation: of one request, with random numbers of its own."""
        unknown = sorted(flags.keys() - self.defaults.keys())
        if unknown:
            raise UsageError(f"{unknown[0]} is no flag of generation: see fairseq-generate --help")
        chosen = Namespace(**{**self.defaults, "nbest": beam, **flags, "beam": beam})
        rules = {"stop_at_eos": stop_at_eos, "write_unk": write_unk}
        extra: Dict[str, Any] = {name: value for name, value in rules.items() if value is not None}
        if chosen.sampling:
            seed = int(torch.randint(2**62, ())) if seed is None else seed
            if not -(2**63) <= seed < 2**63:
                raise UsageError(f"seed {seed} has more than 64 bits: choose a smaller one")
            extra["random"] = generator_for(self.device, seed)
        return self.task.build_generator(list(self.models), chosen, extra_gen_cls_kwargs=extra)

    def score(self, sentences: Any, **unused: Any) -> Any:
        """Log-probabilities of one text or of several, each read from an empty memory.

        Returns: per text ``tokens`` [n], ``positional_scores`` [n] in nats, and ``score``, their mean.
        """
        if isinstance(sentences, str):
            return self.score([sentences])[0]
        ensemble = self.generator().model
        return [self.score_tokens(ensemble, self.encode(sentence).to(self.device)) for sentence in sentences]

    def score_tokens(self, ensemble: Any, tokens: Tensor) -> Dict[str, Tensor]:
        """Log-probabilities of ids [n]."""
        scores = ensemble.start(self.prompt(tokens), temperature=1.0).prompt_scores[0]
        return {"tokens": tokens, "positional_scores": scores, "score": scores.mean()}

    def prompt(self, tokens: Tensor) -> Prompts:
        """Ids [n] as a batch of one."""
        return Prompts(tokens.unsqueeze(0), tokens.new_tensor([len(tokens)]), tokens.new_tensor([self.src_dict.eos()]))

    def generate_stream(self, sentence: str, **flags: Any) -> Iterator[GeneratedToken]:
        """The new tokens of a continuation, each as soon as it is chosen: those of :meth:`sample` with one beam."""
        generator = self.generator(**{**flags, "beam": 1})
        if not isinstance(generator.search, (search.BeamSearch, Sampling)):
            raise UsageError("a stream is one text: leave out the flags of diverse search")
        return self.stream(generator, self.encode(sentence).to(self.device))

    def stream(self, generator: PromptedGenerator, tokens: Tensor) -> Iterator[GeneratedToken]:
        """Token by token, behind ``tokens`` [n]; the caller's gradient mode is left alone."""
        state = generator.model.start(self.prompt(tokens), generator.temperature)
        written = tokens.new_full((1, 1), generator.model.end)
        scores = torch.zeros(1, 1, 0, device=self.device)
        before = 0.0
        for step in range(state.steps):
            with torch.no_grad():
                log_probs, _ = generator.model.forward_decoder(written, state, [], generator.temperature)
                total, chosen, _ = generator.search.step(
                    step, log_probs.unsqueeze(1), scores, written, written[:, 0] * 0
                )
                scores = torch.cat([scores, total[:, :1].unsqueeze(1)], dim=2)
                written = torch.cat([written, chosen[:, :1]], dim=1)
            generator.model.check_finite(state)
            token, score = int(chosen[0, 0]), float(total[0, 0])
            if score == NEVER:
                raise UsageError(nothing_left(generator.model.rules.no_repeat_ngram))
            yield GeneratedToken(token, self.tgt_dict[token], score - before)
            if token == generator.model.end:
                return
            before = score


def from_pretrained(
    folder: str, checkpoint_file: Optional[str], data: Optional[str], **overrides: Any
) -> TextInterface:
    """Loads checkpoints of a folder (several, joined by the system's path separator, as an ensemble).

    Args:
        folder: where the checkpoints are.
        checkpoint_file: their names (default: the first of ``CHECKPOINTS`` that is there).
        data: directory with ``dict.txt`` (default: ``folder``).
        overrides: of the checkpoint's configuration, e.g. ``bpe="text_characters"``, ``tokenizer="moses"``; tokenizer
            and BPE that an exported model or a data-bin of ``lamemo prepare`` remembers need not be given.
    """
    if checkpoint_file is None:
        here = [name for name in CHECKPOINTS if os.path.isfile(os.path.join(folder, name))]
        if not here:
            raise UsageError(f"{folder} has none of {', '.join(CHECKPOINTS)}: name the checkpoint_file")
        checkpoint_file = here[0]
    for name in checkpoint_file.split(os.pathsep):
        if not os.path.isfile(os.path.join(folder, name)):
            raise UsageError(f"{os.path.join(folder, name)} does not exist: name another checkpoint_file")
    data = os.path.abspath(folder if data is None else data)
    if not os.path.isfile(os.path.join(data, "dict.txt")):
        raise UsageError(f"{data} has no dict.txt: name the data directory of the training as data_name_or_path")
    loaded = hub_utils.from_pretrained(folder, checkpoint_file, data, **{**text_form(data), **overrides})
    return TextInterface(loaded["args"], loaded["task"], loaded["models"])
