"""Great Expectations' file context and its Data Docs, made to read well on a machine without a network.

    >>> docs = DataDocs(scratch, site, run_name="fer2013_images-1a2b3c4d")  # doctest: +SKIP
    >>> result = docs.run("images", rows, expectations)  # doctest: +SKIP
    >>> pages = docs.build()  # doctest: +SKIP

Data Docs take their style, their icons and the rows of their index page from the web. Here the style comes
with the page, nothing is loaded from elsewhere, and `index.html` is written by `ferops.data.front_page`.
"""

import logging
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # read when Great Expectations is imported

import great_expectations as gx
from great_expectations.core import ExpectationSuiteValidationResult
from great_expectations.core.run_identifier import RunIdentifier
from great_expectations.data_context.types.base import ProgressBarsConfig
from great_expectations.expectations.expectation import Expectation

#: Failing values and row ids kept in a result and shown on its page.
EXAMPLES = 20

#: Great Expectations inlines this file of a context's plug-in folder into every page.
STYLE_FILE = Path("custom_data_docs/styles/data_docs_custom_styles.css")

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2733; max-width: 72rem;
  margin: 0 auto; padding: 0 1rem; }
nav ol { list-style: none; padding: 0; } nav ol li { display: inline; margin-right: .75rem; }
nav > div > nav { display: flex; } .navbar-brand, .cloud-footer, .btn-group-toggle, p.card-text
  { display: none; }
footer, .collapse, [data-toggle="collapse"], .card-header + .card-body > .mb-2 { display: none; }
a { color: #0b5cad; } h4, h5, h6 { margin: 1.2rem 0 .3rem; font-size: 1.05rem; }
table { border-collapse: collapse; width: 100%; } td, th { text-align: left; vertical-align: top;
  padding: .4rem .6rem; border-bottom: 1px solid #d7dee6; } th:empty { padding: 0; border: 0; }
.fa-check-circle::before { content: "passed"; color: #14693a; font-style: normal; font-weight: 600; }
.fa-exclamation-triangle::before { content: "failed"; color: #7a4b00; font-style: normal; font-weight: 600; }
.fa-times::before { content: "failed"; color: #b3261e; font-style: normal; font-weight: 600; }
"""

#: A page fetches nothing from the web and runs no script: it opens at once without a network, and a label or
#: file name of the dataset that Data Docs put on it unescaped stays without effect.
POLICY = (
    """<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">"""
)


class DataDocs:
    """A file context in a scratch folder whose Data Docs site is written to `site`.

    Args:
        scratch: empty folder for the context; it can go once the site is built.
        site: folder of the HTML pages.
        run_name: shown on every page and part of its address: letters, digits, `-` and `_`.
    """

    def __init__(self, scratch: Path, site: Path, run_name: str) -> None:
        self.site = site
        self._run = RunIdentifier(run_name=run_name, run_time=datetime.now(UTC))
        logging.getLogger("great_expectations").setLevel(logging.ERROR)
        self._context = gx.get_context(mode="file", project_root_dir=scratch)
        self._context.enable_analytics(False)
        self._context.variables.progress_bars = ProgressBarsConfig(globally=False)
        for default in list(self._context.list_data_docs_sites()):
            self._context.delete_data_docs_site(default)
        config: Any = {
            "class_name": "SiteBuilder",
            "show_how_to_buttons": False,
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
            "store_backend": {
                "class_name": "TupleFilesystemStoreBackend",
                "base_directory": str(site.resolve()),
            },
        }
        self._context.add_data_docs_site("validation", config)
        style = Path(str(self._context.plugins_directory)) / STYLE_FILE
        style.parent.mkdir(parents=True, exist_ok=True)
        style.write_text(STYLE)
        self._source = self._context.data_sources.add_pandas("dataset")

    def run(
        self, name: str, rows: pd.DataFrame, expectations: Sequence[Expectation]
    ) -> ExpectationSuiteValidationResult:
        """Check a table with a suite of its name, through a checkpoint; results in the order given."""
        batch = self._source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")
        suite = self._context.suites.add(gx.ExpectationSuite(name=name, expectations=list(expectations)))
        definition = self._context.validation_definitions.add(
            gx.ValidationDefinition(name=name, data=batch, suite=suite)
        )
        result_format: Any = {
            "result_format": "SUMMARY",
            "partial_unexpected_count": EXAMPLES,
            **({"unexpected_index_column_names": ["id"]} if "id" in rows else {}),
        }
        checkpoint = self._context.checkpoints.add(
            gx.Checkpoint(name=name, validation_definitions=[definition], result_format=result_format)
        )
        outcome = checkpoint.run(batch_parameters={"dataframe": rows}, run_id=self._run)
        (result,) = outcome.run_results.values()
        return result

    def build(self) -> dict[str, Path]:
        """Write the site and give the results page of each table, relative to the site."""
        self._context.build_data_docs()
        for page in self.site.rglob("*.html"):
            page.write_text(page.read_text().replace("<head>", f"<head>{POLICY}", 1))
        return {
            page.relative_to(self.site).parts[1]: page.relative_to(self.site)
            for page in (self.site / "validations").rglob("*.html")
        }
