# The rights in a bucket that the documentation names and the tests hold: read from there, so that no second list can differ.

data "aws_partition" "current" {}

locals {
  documented = file("${path.module}/../../../../docs/s3-policy.json")
  here = replace(
    replace(local.documented, "arn:aws:s3:::fab/wafer/", "arn:${data.aws_partition.current.partition}:s3:::${var.bucket}/${var.prefix}/"),
    "\"arn:aws:s3:::fab\"", "\"arn:${data.aws_partition.current.partition}:s3:::${var.bucket}\""
  )
  key = [{
    Sid      = "UseTheKeyOfTheBucket"
    Effect   = "Allow"
    Action   = ["kms:Decrypt", "kms:GenerateDataKey"]
    Resource = var.key_arn
  }]
  policy = merge(jsondecode(local.here), { Statement = concat(jsondecode(local.here).Statement, local.key) })
}

resource "aws_iam_policy" "this" {
  name        = var.name
  description = "What wafer needs in s3://${var.bucket}/${var.prefix}, as docs/s3-policy.json has it, and its key"
  policy      = jsonencode(local.policy)

  lifecycle {
    precondition {
      condition     = !strcontains(local.here, ":::fab")
      error_message = "docs/s3-policy.json names its bucket in a form that is not known here."
    }
  }
}
