"""wafer: finds faulty semiconductor wafers from their 590 sensor readings."""

__version__ = "0.1.0"
