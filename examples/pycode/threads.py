"""How many threads torch should use on a machine that others use as well."""

import torch

ROUND_STEPS = 60
TRIAL_STEPS = 3


class ThreadChooser:
    """Tries each number of threads for a few steps, keeps the fastest for a while, then tries again.

    Two threads on two free cores nearly double the speed; when the cores are taken, the threads wait for each
    other at every operation, and two were seen four times slower than one. Which holds changes within
    minutes.
    """

    def __init__(self, most: int) -> None:
        self._choices = range(1, most + 1)
        self._seconds = dict.fromkeys(self._choices, float("inf"))
        self._step = 0
        self.threads = 1

    def start_step(self) -> None:
        """Set the number of threads for the coming step."""
        in_round = self._step % ROUND_STEPS
        if in_round == 0:
            self._seconds = dict.fromkeys(self._choices, float("inf"))
        trial = in_round // TRIAL_STEPS + 1
        fastest = min(self._choices, key=lambda choice: self._seconds[choice])
        self.threads = trial if trial in self._choices else fastest
        torch.set_num_threads(self.threads)

    def end_step(self, seconds: float) -> None:
        """Tell how long the step took."""
        if self._step % ROUND_STEPS < TRIAL_STEPS * len(self._choices):
            self._seconds[self.threads] = min(seconds, self._seconds[self.threads])
        self._step += 1
