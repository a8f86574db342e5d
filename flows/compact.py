"""Flow `compact` (deployment `compact/daily`): yesterday's log becomes Parquet, what is too old is deleted.

prefect deployment run compact/daily     # by a worker
python flows/compact.py                  # here and now
"""

from prefect import flow, get_run_logger

from ferops.environment import Environment


@flow(name="compact", flow_run_name="compact")
def compact() -> str:
    """Compact the log as `monitoring/policy.yaml` says; gives a sentence about what was done."""
    from ferops.monitoring.compaction import compact as run_compaction
    from ferops.monitoring.monitor import POLICY_FILE
    from ferops.monitoring.policy import load_policy

    environment = Environment()
    policy = load_policy(environment.monitoring_dir / POLICY_FILE)
    done = run_compaction(environment.log_dir, policy.log).sentence()
    get_run_logger().info(done)
    return done


if __name__ == "__main__":
    compact()
