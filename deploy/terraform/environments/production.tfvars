# What it holds outlives a mistake: nothing with content can be destroyed, and versions of objects stay.
environment    = "production"
region         = "eu-central-1"
nat_per_zone   = true
database_class = "db.t4g.small"
pools          = ["ecs", "eks"]
nodes          = { min = 2, max = 6 }
budget_usd     = 900
budget_emails  = ["fab-data@example.com"]
