# Work pools: who may reach them. What their roles may do is known after an apply, and held by tests/deploy/test_terraform.py.

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

variables {
  name           = "wafer-staging"
  vpc_id         = "vpc-1"
  subnets        = ["subnet-1", "subnet-2"]
  image          = "111122223333.dkr.ecr.eu-central-1.amazonaws.com/wafer-staging:1"
  repository_arn = "arn:aws:ecr:eu-central-1:111122223333:repository/wafer-staging"
  key_arn        = "arn:aws:kms:eu-central-1:111122223333:key/one"
  log_group      = { name = "/wafer/staging", arn = "arn:aws:logs:eu-central-1:111122223333:log-group:/wafer/staging" }
}

run "ecs" {
  command = plan

  module {
    source = "./modules/ecs"
  }

  variables {
    storage_policy_arn = "arn:aws:iam::111122223333:policy/wafer-staging-storage"
    worker_count       = 2
    environment        = { WAFER_STORAGE = "s3://fab/data", PREFECT_API_URL = "" }
    secrets = {
      MONGODB_URL     = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:one"
      PREFECT_API_KEY = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:two"
    }
  }

  assert {
    condition = [for container in jsondecode(aws_ecs_task_definition.worker.container_definitions) : [
      container.user, container.readonlyRootFilesystem, [for variable in container.environment : variable.name], container.secrets[*].name,
    ]] == [["10001", true, ["PREFECT_HOME", "WAFER_STORAGE"], ["PREFECT_API_KEY"]]]
    error_message = "The worker is root, may write to its image, or is told what it does not need."
  }

  assert {
    condition     = length(aws_vpc_security_group_egress_rule.tasks) == 4 && !aws_ecs_service.worker.network_configuration[0].assign_public_ip
    error_message = "Flow runs are to be reached by nobody."
  }
}

run "the_whole_internet_is_refused" {
  command = plan

  module {
    source = "./modules/eks"
  }

  variables {
    kubernetes_version = "1.33"
    api_cidrs          = ["0.0.0.0/0"]
    node_types         = ["m7i-flex.large"]
    nodes              = { min = 1, max = 2 }
    retention_days     = 365
    roles              = { pods = { accounts = ["wafer:runs"], policy_arn = "arn:aws:iam::111122223333:policy/one" } }
    secret_arns        = ["arn:aws:secretsmanager:eu-central-1:111122223333:secret:one"]
  }

  expect_failures = [var.api_cidrs]
}

run "eks" {
  command = plan

  module {
    source = "./modules/eks"
  }

  variables {
    kubernetes_version = "1.33"
    api_cidrs          = []
    node_types         = ["m7i-flex.large"]
    nodes              = { min = 1, max = 2 }
    retention_days     = 365
    roles              = { pods = { accounts = ["wafer:runs"], policy_arn = "arn:aws:iam::111122223333:policy/one" } }
    secret_arns        = ["arn:aws:secretsmanager:eu-central-1:111122223333:secret:one"]
  }

  assert {
    condition     = aws_launch_template.nodes.metadata_options[0].http_tokens == "required" && aws_launch_template.nodes.metadata_options[0].http_put_response_hop_limit == 1
    error_message = "Pods reach the role of their node."
  }

  assert {
    condition     = !aws_eks_cluster.this.vpc_config[0].endpoint_public_access && length(aws_eks_cluster.this.enabled_cluster_log_types) == 5
    error_message = "The cluster's API is public, or what happens to it is not logged."
  }
}
