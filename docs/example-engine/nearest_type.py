"""A worked example of an engine for HAYSTACK: the response of the prompt's most similar cell type, alone.

`pip install ./docs/example-engine` makes it `--engine nearest_type`; nothing of HAYSTACK is imported.
"""

import numpy as np
import pandas as pd


def mean_log(cells):
    """Mean log1p of counts per 10,000, by gene, of raw counts."""
    total = np.asarray(cells.X.sum(axis=1)).ravel()
    scaled = cells.X.multiply(1e4 / np.maximum(total, 1)[:, None]).tocsr()
    return pd.Series(np.asarray(scaled.log1p().mean(axis=0)).ravel(), index=cells.var_names)


class NearestType:
    """What HAYSTACK needs: two sentences for the record, and ``predict``."""

    licence = "Apache-2.0"
    citation = "Example engine of HAYSTACK's documentation, version 1.0"

    def predict(self, *, prompt, control, query, others, seed):
        """Change of mean log1p(CP10k) by gene.

        prompt, control, query: AnnData of raw counts (CSR) with obs["cell_type"] and obs["donor"]; control may be None.
        others: cells of other treatments, with obs["perturbation"] and obs["is_control"]; None where there are none.
        """
        base = mean_log(query)
        if control is None:
            return mean_log(prompt).reindex(base.index).dropna() - base
        found = {}
        for name in sorted(set(prompt.obs["cell_type"]) & set(control.obs["cell_type"])):
            treated, untreated = (mean_log(cells[cells.obs["cell_type"] == name]) for cells in (prompt, control))
            found[name] = (untreated.corr(base), treated - untreated)
        if not found:
            raise ValueError("prompt and control have no cell type in common")
        similarity, change = max(found.values(), key=lambda pair: pair[0])
        print(f"similarity of the nearest type: {similarity:.2f}")
        return change[change.index.isin(base.index)]
