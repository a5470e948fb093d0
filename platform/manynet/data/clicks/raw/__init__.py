"""Converters from raw click logs to Parquet files."""
