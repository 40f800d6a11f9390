# MongoDB Atlas for the database of wafers: three nodes, encrypted, backed up, reached from the network's gateways alone.

resource "mongodbatlas_project" "this" {
  name   = "wafer-${var.environment}"
  org_id = var.organisation
}

resource "mongodbatlas_advanced_cluster" "this" {
  project_id                     = mongodbatlas_project.this.id
  name                           = "wafer"
  cluster_type                   = "REPLICASET"
  mongo_db_major_version         = "8.0"
  backup_enabled                 = true
  pit_enabled                    = true
  termination_protection_enabled = var.environment == "production"

  replication_specs {
    region_configs {
      provider_name = "AWS"
      region_name   = var.region
      priority      = 7

      electable_specs {
        instance_size = var.instance_size
        node_count    = 3
      }

      auto_scaling {
        disk_gb_enabled = true
      }
    }
  }

  advanced_configuration {
    minimum_enabled_tls_protocol = "TLS1_2"
    javascript_enabled           = false
  }
}

resource "mongodbatlas_project_ip_access_list" "gateways" {
  for_each   = var.addresses
  project_id = mongodbatlas_project.this.id
  cidr_block = each.value
  comment    = each.key
}

# A password would stand in the state, so users with one are made by hand: readWrite on this database and nothing else.
resource "mongodbatlas_database_user" "roles" {
  for_each           = var.role_arns
  project_id         = mongodbatlas_project.this.id
  username           = each.value
  auth_database_name = "$external"
  aws_iam_type       = "ROLE"

  roles {
    role_name     = "readWrite"
    database_name = "wafer"
  }

  scopes {
    name = mongodbatlas_advanced_cluster.this.name
    type = "CLUSTER"
  }
}
