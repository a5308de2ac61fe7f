"""
Red-team a language model
=========================

Prompts are tasks, and a leaked password is a failure. It needs ``pip install 'sb3-forecast[lm]'``.
"""

# %%
# The password game: a tiny model, trained here for a minute, keeps a password. A few prompts are of rare kinds.

import sb3_forecast as sf
from sb3_forecast.lm import LMFailureScorer, PasswordGame, load_player

model, tokenizer, _ = load_player("tiny", 0, lambda text: None, 60)
game = PasswordGame(400, 1)
print(game.prompts[0][-1]["content"])

# %%
# The score of a prompt is the probability of a leaking reply, summed over the stems that count as a leak. No sampling is needed.

scorer = LMFailureScorer(model, tokenizer, game.prompts, game.targets)
scores = scorer.score(model).numpy()
tail = sf.GumbelTail.fit(scores)
print("worst prompt seen:     ", sf.failure_probability(scores.max()))
print("worst of a million:    ", sf.failure_probability(tail.forecast(1_000_000)))
print("95% limit:             ", sf.failure_probability(tail.interval(1_000_000)[1]))

# %%
# A report with the worst prompts, to send:

worst = scores.argsort()[::-1][:3]
shown = [
    sf.Example(f"prompt {i}", float(sf.failure_probability(scores[i])), game.prompts[i][-1]["content"]) for i in worst.tolist()
]
sf.write_html("prompts.html", "The password game", scores=scores, examples=shown)
for example in shown:
    print(f"{example.failure:.2e}", example.text)
