"""Whom to ask: one policy for the process, chosen in `[selection]`.

`all` asks everyone, `waterfall` one after the other until somebody bids, `weighted` each with a fixed probability,
`thompson` those that are likely to bring the most. Around each of them `Exploring` asks everyone in a share of the
auctions, so that what a policy prefers never becomes all that is known.

Every auction logs, for each candidate, the probability with which it was to be called. Two rules make that number the
true one instead of an estimate: a policy first fixes its probabilities and then draws with exactly those, and every
draw is a hash of the auction's id (`draws`), so a replay repeats it. `protocol.Selection` says what the number means
for an aggregator whose turn never came.

A model policy is one more module here, in three steps:

1. A class with the members of `SelectionPolicy`. Its features are the fields of `Context`; a feature that is missing
   there is added there, and thereby to the decision record, or an evaluation could not repeat the choice. `select` maps
   features to probabilities, raises them to `min_probability`, and draws with `independent`.
2. The model is an immutable value that carries its version. It is trained elsewhere and loaded elsewhere (another
   thread may do so); the policy holds one reference, which an assignment replaces, and `select` reads that reference
   once, so that probabilities and `Selection.model_version` stem from the same model. Until the first model is there,
   `select` returns what `CallAll` returns. `learn` may stay empty: models learn from the decision log.
3. Its name in `SelectionConfig.policy` and a case in `build_policy`.
"""

from operators.bidding.selection.policies import build_policy
from operators.bidding.selection.protocol import Choice, Context, Selection, SelectionPolicy

__all__ = ["Choice", "Context", "Selection", "SelectionPolicy", "build_policy"]
