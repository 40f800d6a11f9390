# Rights in a bucket are those of docs/s3-policy.json, which tests/test_bucket_rights.py holds, with names put in their place.

provider "aws" {
  region                      = "eu-central-1"
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  skip_requesting_account_id  = true
}

variables {
  name    = "wafer-staging-storage"
  bucket  = "line-3"
  prefix  = "data/wafers"
  key_arn = "arn:aws:kms:eu-central-1:111122223333:key/one"
}

run "documented" {
  command = plan

  module {
    source = "./modules/iam"
  }

  assert {
    condition = [for statement in jsondecode(aws_iam_policy.this.policy).Statement : statement.Action] == concat(
      jsondecode(file("../../docs/s3-policy.json")).Statement[*].Action, [["kms:Decrypt", "kms:GenerateDataKey"]]
    )
    error_message = "Other actions are allowed than those of docs/s3-policy.json and the use of the key."
  }

  assert {
    condition = [for statement in jsondecode(aws_iam_policy.this.policy).Statement : statement.Resource] == [
      "arn:aws:s3:::line-3", "arn:aws:s3:::line-3/data/wafers/*", var.key_arn,
    ]
    error_message = "They are allowed elsewhere than below the prefix."
  }
}
