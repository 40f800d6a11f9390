# Small, and gone without a trace by `terraform destroy`.
environment       = "staging"
region            = "eu-central-1"
protected         = false
database_multi_az = false
retention_days    = 30
budget_usd        = 150
budget_emails     = ["fab-data@example.com"]
