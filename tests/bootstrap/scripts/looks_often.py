"""`jaccl-bootstrap` that looks sooner, and more often, whether both ranks have the same number."""

from bootstrap import __main__
from bootstrap.link import same_rank

same_rank.LOOK_SECONDS, same_rank.WORD_SECONDS, same_rank.STAY_SECONDS = 0.2, 1.0, 3.7
__main__.main()
