# The root: what is refused, and what each choice makes.

provider "aws" {
  region                      = "eu-central-1"
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  skip_requesting_account_id  = true
}

override_data {
  target = data.aws_caller_identity.current
  values = { account_id = "111122223333" }
}

override_data {
  target = module.key.data.aws_caller_identity.current
  values = { account_id = "111122223333" }
}

override_data {
  target = module.ecs[0].data.aws_caller_identity.current
  values = { account_id = "111122223333" }
}

variables {
  environment = "staging"
  region      = "eu-central-1"
  mlflow      = false # makes a password, for which it asks AWS even in a plan
}

run "by_default" {
  command = plan

  assert {
    condition     = output.storage == "s3://wafer-staging-111122223333/data" && output.artifacts == "s3://wafer-staging-111122223333-mlflow/mlflow"
    error_message = "Buckets are not named by account and environment."
  }

  assert {
    condition     = length(module.ecs) == 1 && length(module.mlflow) == 0 && length(module.eks) == 0 && length(module.budget) == 0 && length(module.ci) == 0
    error_message = "Other parts are made than ECS."
  }

  assert {
    condition     = toset(keys(output.secrets)) == toset(["mongodb-url", "prefect-api-key", "webhook-secret", "webhook-url"])
    error_message = "Without Kubernetes there are secrets that nobody reads, or some are missing."
  }
}

run "kubernetes_alone" {
  command = plan

  variables {
    pools             = ["eks"]
    budget_usd        = 100
    budget_emails     = ["fab-data@example.com"]
    github_repository = "fab/wafer"
  }

  assert {
    condition     = length(module.ecs) == 0 && length(module.mlflow) == 0 && length(module.eks) == 1 && length(module.budget) == 1 && length(module.ci) == 1
    error_message = "Other parts are made than EKS, budget and the role of workflows."
  }

  assert {
    condition     = length(output.secrets) == 7 && output.mlflow_url == null
    error_message = "Secrets of the cluster are missing."
  }
}

run "nothing_is_guessed" {
  command = plan

  variables {
    environment    = "test"
    name           = "Wafer"
    pools          = ["lambda"]
    zones          = ["a"]
    storage_prefix = "/wafer"
  }

  expect_failures = [var.environment, var.name, var.pools, var.zones, var.storage_prefix]
}
