# Places for secrets. Their values are entered by hand or by who makes them, and never stand in code or state.

resource "aws_secretsmanager_secret" "this" {
  #checkov:skip=CKV2_AWS_57:the values are made elsewhere (Atlas, Prefect, a receiver), so nothing here could rotate them
  for_each                = var.secrets
  name                    = "${var.name}/${each.key}"
  description             = each.value
  kms_key_id              = var.key_arn
  recovery_window_in_days = var.protected ? 30 : 0
}
