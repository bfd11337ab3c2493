"""Our own collector, as the stage `collect_activations` runs it; the Parquet files it writes are in the time."""

from benchmarks.collection.stopwatch import Stopwatch, keep, read_arguments


def main() -> None:
    arguments = read_arguments()
    watch = Stopwatch()
    with watch.lap("load"):
        from pipeline.config import CollectConfig, Execution
        from pipeline.source_config import ModelConfig, SaeConfig
        from pipeline.sources.model import load_model
        from pipeline.sources.saelens_format import load_sae
        from pipeline.stages.collect_activations import collect_shard
        from pipeline.tokenisation import TokenisedSamples

        samples = TokenisedSamples(arguments.work / "tokenised")
        execution = Execution(device="cpu", threads=arguments.threads)
        model = load_model(ModelConfig(path=arguments.model), execution)
        sae = load_sae(SaeConfig(path=arguments.sae), model.device)
        folder = arguments.out / "activations"
        folder.mkdir()
    with watch.lap("collect"):
        counts = [
            collect_shard(index, samples, model, sae, CollectConfig(), folder)
            for index in range(samples.n_shards)
        ]
    watch.report(
        arguments.out,
        sum(shard.n_positions for shard in counts),
        sum(shard.n_activations for shard in counts),
    )
    if arguments.keep:
        import pyarrow.parquet as pq

        found = pq.read_table(folder)
        keep(arguments.out, *(found[name].to_numpy() for name in ("sample", "position", "feature", "value")))


if __name__ == "__main__":
    main()
