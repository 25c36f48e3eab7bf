"""`harness schema`."""

from __future__ import annotations

import click


@click.command(name="schema")
def command() -> None:
    """Print the JSON schema of matrix.yaml, made from the model that checks it."""
    click.echo(schema_text(), nl=False)


def schema_text() -> str:
    """The schema as it is committed in docs/matrix.schema.json."""
    import json

    from harness.inputs.matrix import Matrix

    return json.dumps(Matrix.model_json_schema(by_alias=True), indent=1, sort_keys=True) + "\n"
